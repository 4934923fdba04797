"""Champion against challenger: may the night's version go live?"""
